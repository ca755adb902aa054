pytest_plugins = ["fixtures.claim", "fixtures.lab", "reports.plugin", "pytester"]
