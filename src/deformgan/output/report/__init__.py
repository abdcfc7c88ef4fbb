"""The page that shows one registration: pictures, figures, provenance and a viewer in one file that opens offline."""
