"""A limit on what each name may hold at the same time."""


class Share:
    """The number of places that each name may hold at the same time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Hold a place for this name. Return False if the name already holds all of its places."""
        held = self._held.get(name, 0)
        if held >= self.most:
            return False
        self._held[name] = held + 1
        return True

    def refund(self, name: str) -> None:
        """Release a place of this name."""
        held = self._held[name] - 1
        if held:
            self._held[name] = held
        else:
            del self._held[name]
