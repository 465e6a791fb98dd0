"""`ossft export`: a run's examples as a data set for other trainers, with a data-set card.

export.py      the command: read, write, push
formats.py     the columns that each trainer reads
data_file.py   the one file of examples
card.py        the data-set card, from card.md.jinja
push.py        the upload to the Hugging Face Hub
"""

from ossft_ray.export.export import Exported, export

__all__ = ["Exported", "export"]
