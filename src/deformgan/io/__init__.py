"""Reading and writing files: images, series and points; untrusted files are checked, written files are whole."""
