"""Everything that knows how Ray works: starting it, placing work on nodes, watching workers, replanning."""
