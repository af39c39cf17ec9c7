"""One renderer for all that relook shows: pictures, and pages made of them."""

from relook.report.evaluation import write_report
from relook.report.page import render_page
from relook.report.picture import save_picture

__all__ = ["render_page", "save_picture", "write_report"]
