"""Where a registration starts: headers or centres, or the linear map that a search over all rotations finds."""
