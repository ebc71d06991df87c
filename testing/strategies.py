"""Hypothesis strategies for the values of the API."""

from hypothesis import strategies as st

from interaction_svc.domain import timestamps
from interaction_svc.domain.validation import EARLIEST_US, LATEST_AHEAD_US
from interaction_svc.v1 import interaction_pb2 as pb
from testing.build import NOON_US, SECOND_US, normalized


def sids(prefix: str) -> st.SearchStrategy[str]:
    """Generate SIDs with hexadecimal digits of either case, as the API accepts them."""
    return st.text("0123456789abcdefABCDEF", min_size=32, max_size=32).map(lambda s: prefix + s)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
types = st.sampled_from([number for number in pb.InteractionType.values() if number])
statuses = st.sampled_from(pb.ResourceStatus.values())
NOW_US = NOON_US + 24 * 3600 * SECOND_US
"""The time at which Interactions are checked."""
times_us = st.integers(EARLIEST_US, NOW_US + LATEST_AHEAD_US)
# http and https URLs. After the host any character is valid, except white space, control
# characters and <>".
urls = st.builds(
    "{}://{}/{}".format,
    st.sampled_from(["http", "https", "HTTPS"]),
    st.sampled_from(["api.example.com", "api.example.com:8443", "[::1]", "user@example.com"]),
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters='<>"'), max_size=80
    ),
)


@st.composite
def legs(draw: st.DrawFn) -> pb.Leg:
    return pb.Leg(
        participant_sid=draw(st.just("") | sids("KP")),
        resource_sid=draw(st.just("") | sids("SM") | sids("CA")),
        resource_status=draw(statuses),
        resource_type=draw(st.sampled_from(["", "Message", "Call", "message", "CALL"]) | texts)[
            :64
        ],
        resource_url=draw(st.just("") | urls),
    )


@st.composite
def interactions(draw: st.DrawFn) -> pb.Interaction:
    """Generate normalized Interactions, as they are stored."""
    made = pb.Interaction(
        sid=draw(sids("KI")),
        account_sid=draw(sids("AC")),
        service_sid=draw(sids("KS")),
        session_sid=draw(sids("KC")),
        type=draw(types),
        data=draw(st.none() | texts),
        inbound=draw(st.none() | legs()),
        outbound=draw(st.none() | legs()),
    )
    created_us, updated_us = sorted((draw(times_us), draw(times_us)))
    timestamps.set_us(made.create_time, created_us)
    timestamps.set_us(made.update_time, updated_us)
    return normalized(made, now_us=NOW_US)
