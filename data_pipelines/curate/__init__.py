"""Curation: from raw files to the clips worth training on, with an account of each.

    probe        decode a file once, guarded; measure every frame         `observation`
    cut          find its shots                                           `cutting`
    score        motion, sharpness, exposure, borders, text of a shot     `scoring`
    deduplicate  exactly by SHA-256, nearly by perceptual hash            `duplicates`
    split        hold out whole files                                     `curation`
    caption      join the captions of the files                           `curation`
    write        ArrayRecord shards, manifest, quarantine log             `shards`

What a step makes is kept in a store under the digest of all that it was made from
(`data_pipelines.storage`): a step runs again where its input or its settings changed,
and a run that was killed goes on where it stopped. What maps over files and shards runs
in processes here, or as an Apache Beam pipeline elsewhere (`runners`).
"""
