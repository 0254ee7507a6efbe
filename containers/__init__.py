"""Images, one per backend: what is in each, how it is built, whether it works, and what it says of itself.

recipes.py      what each image holds, as data
locks.py        the exact packages of each, with hashes: `requirements/images/`
bases.py        the images that ours begin with, from `images.toml`
definitions.py  a recipe as a Dockerfile and as an Apptainer definition; `generated/` has them all
smoke.py        what is tried inside an image, against `reference.npz`
builders.py     which programs build images here, and by which command line; build.py runs them
transfer.py     images on their way: registries, and files where there is no way out
programs.py     programs that take minutes, and how they end
container.py    the command line that runs a command inside an image
image_facts.py  an image's digest, backend and version, as its runtime tells them

May import: Jinja2, NumPy, pydantic; `backends`, `campaigns.finding`, `config`, `errors`, `files`, `network`,
`provenance`, `startup`, `telemetry.gpu`.
"""
