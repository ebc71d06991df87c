"""What every store must do. A backend's test inherits it and says how one is opened.

What a backend can't do it declares by overriding that very test.
"""

from tests.store.keeping import Keeping
from tests.store.living import Living
from tests.store.merging import Merging
from tests.store.moving import Moving
from tests.store.reading import Reading
from tests.store.sweeping import Sweeping
from tests.store.writing import Writing


class StoreSuite(Reading, Writing, Keeping, Sweeping, Merging, Moving, Living):
    """All tests of a Store."""
