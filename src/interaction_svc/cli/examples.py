"""Example commands for the shell, for a Session of the store."""

from collections import Counter

import typer

from interaction_svc.codec.twilio_json import list_url
from interaction_svc.runtime.settings import Settings
from interaction_svc.store import Store, decode
from interaction_svc.transports.address import Address

_SCANNED_ROWS = 1000


async def print_examples(
    store: Store, settings: Settings, grpc_address: Address | None, http_address: Address | None
) -> None:
    """Print grpcurl, curl and Twilio SDK calls for the largest of the store's first Sessions."""
    frames, _ = await store.scan(after=None, limit=_SCANNED_ROWS, max_bytes=2**22)
    if not frames:
        typer.echo("The store is empty; fill it with: interaction-svc import FILE")
        return
    interactions = [decode(frame) for frame in frames]
    largest, count = Counter(i.session_sid for i in interactions).most_common(1)[0]
    some = next(i for i in interactions if i.session_sid == largest)
    account_sid, service_sid = some.account_sid, some.service_sid
    ca = settings.tls_certificate
    user, secret, bearer = account_sid, "secret", ""
    if await store.has_keys():
        user, secret, bearer = "SK...", "SECRET", "-H 'authorization: Bearer SK....SECRET' "
        typer.echo("\nWrite a key of yours for SK... and SECRET (interaction-svc keys create).")
    typer.echo(f"\nSession {largest} has {count} Interactions. Page through it, 10 at a time:")
    if grpc_address is not None:
        typer.echo(
            "\n# gRPC (pass next_page_token back as page_token)\n"
            f"grpcurl {f'-cacert {ca}' if ca else '-plaintext'} {bearer}"
            f'-d \'{{"service_sid": "{service_sid}", '
            f'"session_sid": "{largest}", "page_size": 10}}\' {grpc_address} '
            "interaction_svc.v1.InteractionService/ListInteractions"
        )
    if http_address is not None:
        base_url = settings.public_url or http_address.url(settings.http_scheme)
        url = list_url(base_url, service_sid, largest)
        typer.echo(
            "\n# REST (follow meta.next_page_url)\n"
            f"curl {f'--cacert {ca} ' if ca else ''}-u {user}:{secret} '{url}?PageSize=10'\n"
            "\n# Twilio's own Python SDK (pip install twilio)\n"
            f"{f'REQUESTS_CA_BUNDLE={ca} ' if ca else ''}python3 - <<'EOF'\n"
            "from twilio.rest import Client\n"
            f'client = Client("{user}", "{secret}", "{account_sid}")\n'
            f'client.proxy.base_url = "{base_url}"\n'
            f'session = client.proxy.v1.services("{service_sid}").sessions("{largest}")\n'
            "for interaction in session.interactions.stream(page_size=10):\n"
            "    print(interaction.date_created, interaction.type, interaction.data)\n"
            "EOF"
        )
    typer.echo("\nCtrl-C ends it.")
