"""`python -m dp3d_cli` is `dp3d`."""

from dp3d_cli.app import main

if __name__ == "__main__":
    main()
