"""What is compared with the paper, and how it runs: profiles, runs, tables and the page of results."""
