"""The contract of all stores, as a test class.

The tests of a backend inherit it and implement `opened`. A backend overrides the test of a feature
that it lacks.
"""

from tests.store.contract.api_keys import ApiKeyTests
from tests.store.contract.bulk_delete import BulkDeleteTests
from tests.store.contract.lifetime import LifetimeTests
from tests.store.contract.merging import MergingTests
from tests.store.contract.reads import ReadTests
from tests.store.contract.table_io import TableIOTests
from tests.store.contract.writes import WriteTests


class StoreSuite(
    ReadTests, WriteTests, ApiKeyTests, BulkDeleteTests, MergingTests, TableIOTests, LifetimeTests
):
    """All tests of the contract."""
