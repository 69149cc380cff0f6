"""What a gallery answers over HTTP: searches, its rows and pictures, and where it may be written to, new rows."""
