"""An engine's process; `quernel.engine.process` starts it."""

from quernel.engine.host import main

main()
