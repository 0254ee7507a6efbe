"""Floor 5: from the collected tables to one comparison, its figures and its page.

`tables` reads them, `measures` reduces them to numbers per run, `summary` puts runs of several seeds side by side in a
`comparison`, `plots` draws, `page` writes one self-contained HTML file. May import floors 1 to 4, pyarrow, matplotlib
(in `plots`) and jinja2 (in `page`).
"""
