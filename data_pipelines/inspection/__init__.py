"""What is in a dataset: facts (JSON), and a page of them with pictures (HTML, PNG)."""
