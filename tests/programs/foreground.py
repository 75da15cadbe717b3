"""Becomes the command in its arguments, as the foreground process group of the terminal on its standard input.

It is started by its path and with `python -I -S`, so that a terminal opens without waiting for imports. It resets
SIGINT and SIGHUP, because tests that run in the background or under nohup ignore them, and children inherit that.
"""

import fcntl
import os
import signal
import sys
import termios

os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
