"""From results files to tests, tables and the report."""
