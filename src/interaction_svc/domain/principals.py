"""Principals: authenticated callers, with their account and their permissions.

A key has one or more roles and belongs to one account. The role `admin` gives access to all
accounts, and can't be combined with another role.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum

from interaction_svc.domain.errors import PermissionDenied


class Permission(Enum):
    """A permission that an operation requires of a key."""

    READ = "read"
    DELETE = "delete"
    INGEST = "record"


_READ = frozenset({Permission.READ})
_ALL = frozenset(Permission)


class Role(StrEnum):
    """A role of a key: a set of permissions."""

    READ = "read"
    OPERATE = "operate"
    INGEST = "ingest"
    ADMIN = "admin"

    @property
    def rights(self) -> frozenset[Permission]:
        """Return the permissions of the role."""
        return _RIGHTS[self]


_RIGHTS = {
    Role.READ: _READ,
    Role.OPERATE: _READ | {Permission.DELETE},
    Role.INGEST: frozenset({Permission.INGEST}),
    Role.ADMIN: _ALL,
}


def format_roles(roles: Iterable[Role]) -> str:
    """Return roles in their stored form: sorted names separated by commas, `ingest,read`."""
    return ",".join(sorted(set(roles)))


def parse_roles(text: str) -> frozenset[Role]:
    """Parse a text of `format_roles`. Raises ValueError for an unknown role."""
    return frozenset(map(Role, text.split(",")))


def rights_of(roles: Iterable[Role]) -> frozenset[Permission]:
    """Return the union of the permissions of the roles."""
    return frozenset().union(*(role.rights for role in roles))


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: its account (None: all accounts), its key and its permissions."""

    account_sid: str | None = None
    key_sid: str | None = None
    rights: frozenset[Permission] = _ALL

    @property
    def quota_key(self) -> str:
        """Return the name under which limits count the caller: its account, or else its key."""
        return self.account_sid or self.key_sid or "anyone"

    @property
    def scope(self) -> str:
        """Return the kind of `quota_key`: `account`, `key`, or `anonymous` without a key."""
        if self.account_sid is not None:
            return "account"
        return "anonymous" if self.key_sid is None else "key"

    def require(self, right: Permission) -> None:
        """Raise PermissionDenied unless the caller has this permission."""
        if right not in self.rights:
            raise PermissionDenied(f"The key has no role that gives the right to {right.value}")


ANONYMOUS = Principal()
"""The principal of every caller of a service without keys, and of the command line."""
