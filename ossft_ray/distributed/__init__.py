"""Everything that knows how Ray works: starting it, placing work on nodes, watching workers, replanning."""

import os

# Ray connects by itself at the first call of its API. After a replanning, a thread of the abandoned plan would connect
# while the new plan does, and one of the two would fail. Ray reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
