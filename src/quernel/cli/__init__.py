"""The command line: one file per command, found and imported only when it is called.

stdout is data, stderr is talk. This is the only part that reads the environment, and the place where parts are put
together: models are opened here and handed to whoever needs them.
"""
