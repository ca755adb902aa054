pytest_plugins = ["fixtures.claim", "reports.plugin", "pytester"]
