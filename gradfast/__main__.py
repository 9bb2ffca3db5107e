"""`python -m gradfast`, which `torchrun -m gradfast` needs."""

from gradfast.cli import main

main()
