"""Principals: authenticated callers, with their account and their permissions.

A key has one or more roles and belongs to one account. The role `admin` reaches all accounts and
can't be combined with another.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum

from interaction_svc.domain.errors import PermissionDenied


class Permission(Enum):
    """What a call needs."""

    READ = "read"
    DELETE = "delete"
    INGEST = "record"


_READ = frozenset({Permission.READ})
_ALL = frozenset(Permission)


class Role(StrEnum):
    """What a key is for."""

    READ = "read"
    OPERATE = "operate"
    INGEST = "ingest"
    ADMIN = "admin"

    @property
    def rights(self) -> frozenset[Permission]:
        """What callers with such a key may do."""
        return _RIGHTS[self]


_RIGHTS = {
    Role.READ: _READ,
    Role.OPERATE: _READ | {Permission.DELETE},
    Role.INGEST: frozenset({Permission.INGEST}),
    Role.ADMIN: _ALL,
}


def spelt(roles: Iterable[Role]) -> str:
    """Return how the store spells a set of roles: `ingest,read`, sorted; one role is its name."""
    return ",".join(sorted(set(roles)))


def roles_of(text: str) -> frozenset[Role]:
    """Read what `spelt` returns. Raises ValueError for a role that this version does not know."""
    return frozenset(map(Role, text.split(",")))


def rights_of(roles: Iterable[Role]) -> frozenset[Permission]:
    """Return the union of what the roles allow."""
    return frozenset().union(*(role.rights for role in roles))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: whose Interactions they reach (None: every account's), with which rights."""

    account_sid: str | None = None
    key_sid: str | None = None
    rights: frozenset[Permission] = _ALL

    @property
    def quota_key(self) -> str:
        """Under which name the caller's share is counted: its account's, or else its key's."""
        return self.account_sid or self.key_sid or "anyone"

    @property
    def scope(self) -> str:
        """What `quota_key` is a name of: an `account`, a `key`, or all `anonymous` callers."""
        if self.account_sid is not None:
            return "account"
        return "anonymous" if self.key_sid is None else "key"

    def require(self, right: Permission) -> None:
        """Raise PermissionDenied unless the caller has this right."""
        if right not in self.rights:
            raise PermissionDenied(f"The key has no role that gives the right to {right.value}")


ANONYMOUS = Principal()
"""Whoever calls where there are no keys, and the command line on a store of its own."""
