"""How networks are taught: T with G and D, T's parts, and S; runs that stop anywhere and go on."""
