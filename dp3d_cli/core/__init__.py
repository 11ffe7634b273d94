"""Ground floor: values in, values out. Knows no screen, no command line and no folder layout."""
