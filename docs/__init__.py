"""The documents, and the one program that writes a page of them (`configuration.py`)."""
