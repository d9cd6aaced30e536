"""The small run of the report's tests."""

from tests.report.conftest import result as result
