"""Hypothesis strategies for what the API knows."""

from hypothesis import strategies as st

from interaction_svc import timestamps
from interaction_svc.records import normalized
from interaction_svc.v1 import interaction_pb2 as pb


def sids(prefix: str) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdefABCDEF", min_size=32, max_size=32).map(lambda s: prefix + s)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
types = st.sampled_from([number for number in pb.InteractionType.values() if number])
statuses = st.sampled_from(pb.ResourceStatus.values())
first_us = timestamps.parse("0001-01-01T00:00:00Z")
last_us = timestamps.parse("9999-12-31T23:59:59.999999Z")
times_us = st.integers(first_us, last_us)


@st.composite
def legs(draw: st.DrawFn) -> pb.Leg:
    return pb.Leg(
        participant_sid=draw(st.just("") | sids("KP")),
        resource_sid=draw(st.just("") | sids("SM") | sids("CA")),
        resource_status=draw(statuses),
        resource_type=draw(st.sampled_from(["", "Message", "Call", "message", "CALL"]) | texts)[
            :64
        ],
        resource_url=draw(texts),
    )


@st.composite
def interactions(draw: st.DrawFn) -> pb.Interaction:
    """Interactions as they are stored."""
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
    timestamps.set_us(made.create_time, draw(times_us))
    timestamps.set_us(made.update_time, draw(times_us))
    return normalized(made, now_us=0)
