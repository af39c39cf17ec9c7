"""Pictures of corrections, and the HTML pages of evaluations and comparisons."""

from relook.report.comparison import keep_cases
from relook.report.gallery import keep_gallery
from relook.report.picture import save_picture
from relook.report.run import write_report

__all__ = ["keep_cases", "keep_gallery", "save_picture", "write_report"]
