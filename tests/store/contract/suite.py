"""What every store must do. A backend's test inherits it and says how one is opened.

What a backend can't do it declares by overriding that very test.
"""

from tests.store.contract.api_keys import Keeping
from tests.store.contract.bulk_delete import Sweeping
from tests.store.contract.lifetime import Living
from tests.store.contract.merging import Merging
from tests.store.contract.reads import Reading
from tests.store.contract.table_io import Moving
from tests.store.contract.writes import Writing


class StoreSuite(Reading, Writing, Keeping, Sweeping, Merging, Moving, Living):
    """All tests of a Store."""
