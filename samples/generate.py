"""Generates the sample data of this folder: `python samples/generate.py`.

The data is invented, and the same in every run. The files have every form that `import` reads.
"""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

HERE = Path(__file__).parent
BASE_URL = "http://127.0.0.1:8080"
Resource = dict[str, str | None]
random_ = random.Random(20260214)

MESSAGE_STATUSES = [
    *("delivered",) * 12, *("sent",) * 3, "read", "read", "accepted", "queued", "scheduled",
    "sending", "undelivered", "failed", "delivery-unknown", "partially-delivered", "canceled",
    "deleted", "unknown",
]  # fmt: skip
CALL_STATUSES = [
    *("completed",) * 8, "busy", "no-answer", "canceled", "failed", "initiated", "ringing",
    "answered", "in-progress", "queued",
]  # fmt: skip
INBOUND_STATUSES = [*("received",) * 6, "delivered", "receiving", "sent"]

COURIER = [
    ("Hi, this is your courier. I'm about ten minutes away.", "Great, I'm home."),
    ("Which entrance should I use?", "The blue gate, then second floor 🙂"),
    (
        "I can't find number 14, is it behind the bakery?",
        "Yes! Behind the bakery, next to the bike racks",
    ),
    ("Ich bin gleich da – können Sie das Tor öffnen?", "Ist offen, danke schön!"),
    ("Bonjour, votre colis arrive à 15 h.", "Parfait, merci beaucoup !"),
    ("Estoy en la puerta, ¿me puede abrir?", "Ya bajo, un momento por favor"),
    ("お荷物をお届けに参りました。", "ありがとうございます、今行きます"),
    ("Left it with your neighbour at 12b, as you asked.", "Perfect 👍"),
    ("Доставка через 5 минут", "Хорошо, жду"),
    ("The box is a bit dented, want me to note it?", "Please do, and send a photo?"),
]
CLINIC = [
    ("Reminder: your visit is tomorrow at 09:30. Reply YES to confirm.", "YES"),
    ("Your form is ready to be picked up at the desk.", "Thanks, I'll come on Thursday"),
    ("We have an earlier slot today at 16:15, would you like it?", "Yes please!!"),
    ("Please remember to drink nothing but water after midnight.", "Ok. Is tea fine?"),
    ("Přijďte prosím o 10 minut dříve.", "Dobře, děkuji"),
    ("تم تأكيد موعدك يوم الأحد الساعة 10", "شكرا جزيلا"),
    ("How are you feeling after the visit?", "Much better, thank you for asking ❤️"),
    ("The doctor is running 20 minutes late, sorry!", "no problem, I'll get a coffee"),
]
RIDES = [
    ("I'm in the grey car with the roof box", "coming down now"),
    ("Traffic on the bridge, 5 min more", "ok take your time"),
    ("Ben buradayım, köşede bekliyorum", "Geliyorum 🏃"),
    ("You left an umbrella on the back seat", "Oh no! Can I get it tomorrow?"),
    ("Is the dog coming too? 🐕", "Yes, she's small and very polite"),
]


def sid(prefix: str) -> str:
    return prefix + f"{random_.getrandbits(128):032x}"


class Session:
    """One Session: two participants who write to and call each other."""

    def __init__(self, account: str, service: str, begin: str, talk: list[tuple[str, str]]) -> None:
        self.account, self.service, self.sid = account, service, sid("KC")
        self.people = sid("KP"), sid("KP")
        self.now = datetime.fromisoformat(begin).replace(tzinfo=UTC)
        self.talk = talk

    def interactions(self, count: int, *, calls: float, one_sided: float) -> list[Resource]:
        made = []
        for number in range(count):
            self.now += timedelta(seconds=random_.choice((0, 7, 41, 185, 1260, 86_400)))
            first, second = self.talk[number // 2 % len(self.talk)]
            sides = self.people if number % 2 == 0 else self.people[::-1]
            text = first if number % 2 == 0 else second
            made.append(
                self.interaction(
                    sides, text, random_.random() < calls, random_.random() < one_sided
                )
            )
        return made

    def interaction(
        self, sides: tuple[str, str], text: str, call: bool, one_sided: bool
    ) -> Resource:
        sid_ = sid("KI")
        path = f"/v1/Services/{self.service}/Sessions/{self.sid}/Interactions/{sid_}"
        duration = random_.choice((0, 4, 11, 38, 97, 341, 1204))
        data = {"duration": str(duration)} if call else {"body": text}
        updated = self.now + timedelta(seconds=duration if call else random_.choice((0, 1, 2, 5)))
        resource: Resource = {
            "sid": sid_,
            "session_sid": self.sid,
            "service_sid": self.service,
            "account_sid": self.account,
            "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")),
            "type": "voice" if call else "message",
        }
        for side, participant in zip(("inbound", "outbound"), sides, strict=True):
            there = not (one_sided and side == "inbound")
            resource_sid = sid("CA" if call else random_.choice(("SM", "SM", "SM", "MM")))
            kind = "Calls" if call else "Messages"
            statuses = (
                CALL_STATUSES
                if call
                else (INBOUND_STATUSES if side == "inbound" else MESSAGE_STATUSES)
            )
            leg = {
                "participant_sid": participant,
                "resource_sid": resource_sid,
                "resource_status": random_.choice(statuses),
                "resource_type": "Call" if call else "Message",
                "resource_url": "https://api.twilio.com/2010-04-01/Accounts/"
                f"{self.account}/{kind}/{resource_sid}.json",
            }
            for name, value in leg.items():
                resource[f"{side}_{name}"] = value if there else None
        resource["date_created"] = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        resource["date_updated"] = f"{updated:%Y-%m-%dT%H:%M:%SZ}"
        resource["url"] = BASE_URL + path
        return resource


def envelope(session: Session, interactions: list[Resource]) -> dict[str, object]:
    url = f"{BASE_URL}/v1/Services/{session.service}/Sessions/{session.sid}/Interactions"
    link = f"{url}?PageSize=1000&Page=0"
    return {
        "interactions": interactions,
        "meta": {
            "page": 0,
            "page_size": 1000,
            "first_page_url": link,
            "previous_page_url": None,
            "url": link,
            "next_page_url": None,
            "key": "interactions",
        },
    }


def write(name: str, text: str) -> None:
    (HERE / name).write_text(text, encoding="utf-8")


def pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    """Write the files."""
    first, second = "ACc0ffee00c0ffee00c0ffee00c0ffee01", "ACdecade00decade00decade00decade02"
    couriers, rides, clinic = sid("KS"), sid("KS"), sid("KS")

    parcel = Session(first, couriers, "2026-02-14T08:05:00", COURIER)
    write(
        "courier-page.json",
        pretty(envelope(parcel, parcel.interactions(120, calls=0.15, one_sided=0.1))),
    )

    lines = []
    for begin, count in (("2026-01-05T07:00:00", 60), ("2026-03-01T12:30:00", 45)):
        visit = Session(second, clinic, begin, CLINIC)
        lines += visit.interactions(count, calls=0.3, one_sided=0.35)
    write("clinic.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    pickup = Session(first, rides, "2026-04-20T18:40:00", RIDES)
    evening = Session(first, rides, "2026-05-02T22:10:00", RIDES)
    write(
        "rides-list.json",
        pretty(
            pickup.interactions(40, calls=0.5, one_sided=0.05)
            + evening.interactions(34, calls=0.8, one_sided=0.0)
        ),
    )

    unknown = Session(first, rides, "2026-06-01T09:00:00", RIDES).interactions(
        1, calls=0, one_sided=0
    )[0]
    unknown |= {"type": "unknown", "data": None}
    write("one-resource.json", pretty(unknown))


if __name__ == "__main__":
    main()
