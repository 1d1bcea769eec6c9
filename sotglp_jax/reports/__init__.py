"""The paper's tables and figures from the results files of any runs."""
