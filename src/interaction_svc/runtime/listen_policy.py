"""Listen policy: listeners that other machines can reach require keys and TLS."""

import structlog

from interaction_svc.runtime.settings import Settings, SettingsError
from interaction_svc.store import Store
from interaction_svc.transports.address import Address

log = structlog.get_logger()


async def check_listen_policy(settings: Settings, store: Store, *, warns: bool = True) -> bool:
    """Return whether callers need no key until the store has one.

    That is the case if the store has never had a key, and all listeners are on loopback addresses
    or `insecure` is set. With `warns`, log a warning if keys or TLS are missing. Raises
    SettingsError, which says what to do, if other machines can reach a listener without keys or
    TLS and `insecure` is not set.
    """
    exposed = [
        f"{name} {address}"
        for name, is_served, address in (
            ("grpc_address", settings.grpc, settings.grpc_address),
            ("http_address", settings.http, settings.http_address),
        )
        if is_served and not Address.parse(address).is_loopback
    ]
    has_keys = await store.has_keys()
    if exposed and not settings.insecure:
        missing = []
        if not has_keys:
            missing.append("make a key (interaction-svc keys create)")
        if settings.tls_certificate is None:
            missing.append("set tls_certificate and tls_key")
        if missing:
            raise SettingsError(
                f"{' and '.join(exposed)} can be reached from other machines: "
                f"{' and '.join(missing)}, or set --insecure to serve without them"
            )
    if warns:
        _warn(settings, has_keys=has_keys, is_exposed=bool(exposed))
    return not has_keys and (not exposed or settings.insecure)


async def check_hosted_policy(settings: Settings, store: Store) -> bool:
    """Return whether callers need no key until the store has one, for an unknown listener.

    Another program listens, perhaps on addresses that other machines can reach. Raises
    SettingsError if the store has never had a key and `insecure` is not set.
    """
    has_keys = await store.has_keys()
    if not has_keys and not settings.insecure:
        raise SettingsError(
            "the store has no keys: make a key (interaction-svc keys create), or set insecure to"
            " serve every caller"
        )
    if not has_keys:
        _warn(settings, has_keys=False, is_exposed=False)
    return not has_keys


def _warn(settings: Settings, *, has_keys: bool, is_exposed: bool) -> None:
    if not has_keys:
        log.warning(
            "serving without keys: every caller has all permissions; create a key with"
            " interaction-svc keys create"
        )
    if settings.metrics and not Address.parse(settings.metrics_address).is_loopback:
        log.warning("other machines can read the metrics, which have no keys and no TLS")
    if is_exposed and settings.tls_certificate is None:
        log.warning("serving without TLS: others can read keys and messages in transit")
