"""What setup.py needs: checks of the machine, compiler flags and the build command."""
