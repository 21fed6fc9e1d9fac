"""`ndtrain report`: a run as one HTML file.

    html = render(read_run(Path("runs/small")))

`read_run` (run_files.py) reads what there is; `SECTIONS` (page.py) is the list of parts, each a
function from the run to HTML; charts.py and lanes.py draw SVG. A new part is a file and a row.
"""
