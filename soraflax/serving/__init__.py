"""A page in a browser for every way of prompting a model: `soraflax serve`.

    Request   what a visitor asks for              `requests`
    Job       checked, its files read and fitted   `requests`, `uploads`
    Ticket    its place in a bounded queue         `job_queue`
    Result    videos on disk and their record      `studio`
    page      what the visitor sees (Gradio)       `page`, `panels`

Only `page` knows Gradio (the `ui` extra); everything below it runs and is tested
without.
"""
