"""The small task and its server, as the tests of runs have them."""

from tests.runs.conftest import double as double
from tests.runs.conftest import endpoint as endpoint
from tests.runs.conftest import task as task
