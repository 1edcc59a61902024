"""A page in a browser for every way of prompting a model: `soraflax serve`.

    Request   what a visitor asks for              `requests`
    Job       checked, its files read and fitted   `requests`, `uploads`
    Ticket    its place in a bounded queue         `job_queue`
    Result    videos on disk and their record      `studio`
    page      what the visitor sees (Gradio)       `page`, `layout`, `panels`

Only `page` and `layout` know Gradio (the `ui` extra); the rest runs, and is tested,
without.
"""
