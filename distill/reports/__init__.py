"""Pages to look at: charts and parts of a page, the report of an evaluation, the demo's."""
