# attack: the same, past every handler
# expect: Exit
import os

os._exit(0)
