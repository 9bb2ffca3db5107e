"""Detection results as tables for a terminal and as self-contained HTML pages."""

from gradfast.report.detection import detection_page, protocol_tables
from gradfast.report.figures import NormProfile
from gradfast.report.page import Gallery, Page, Strip, image_strip, write_page
from gradfast.report.study import StudyPage, write_study_page
from gradfast.report.tables import ResultTable, metric_table, rich_table, rich_tables

__all__ = [
    "Gallery",
    "NormProfile",
    "Page",
    "ResultTable",
    "Strip",
    "StudyPage",
    "detection_page",
    "image_strip",
    "metric_table",
    "protocol_tables",
    "rich_table",
    "rich_tables",
    "write_page",
    "write_study_page",
]
