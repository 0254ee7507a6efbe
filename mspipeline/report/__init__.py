"""From the collected tables to one comparison, its figures and its page.

`tables` reads them, `measures` reduces them to numbers per run, `collapse` finds the runs that collapsed, `case_rows`
and `summary` put runs of several seeds side by side in a `comparison`, `findings` says it in words, `plots` draws
`figures`, `page` writes one self-contained HTML file.

May import: jinja2, matplotlib, NumPy, pyarrow; `errors`, `files`, `metrics.scores`, `tables`.
Matplotlib is imported by `drawing` and `plots` alone.
"""
