"""Maps in world millimetres, and the transform files of other tools."""
