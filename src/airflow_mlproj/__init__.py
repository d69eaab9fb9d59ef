"""The Airflow adapter of mlproj."""
