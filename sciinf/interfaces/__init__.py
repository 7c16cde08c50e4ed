"""Questions and answers, commands, figures, report, service, exports, surveys.

A run folder holds `simulations/` and `calibration_simulations/` (stores), `fit/`, `calibration.json` with
`reference.safetensors`, `answers/NAME/` for each observation (`answer.json`, `draws.h5`, `predictive.h5`, `paths.h5`),
`refined/NAME/` (the same for data near one observation, and its `rounds`), `provenance.json`, `report.html`, `log.txt`
and `events.jsonl`.

`question` has the steps of a question, `answer` is `query`, and `asking` says which of a run's posteriors answers. The
service decides nothing anew: verdicts and findings are those of `query`. One of its kinds of process speaks HTTP; the
others answer, and may die. Rows of a survey are seeded by their position alone, and passes begin at fixed positions, so
neither blocks nor kills nor processes change a bit of the answers. No figure and no export asks which kind a parameter
is: estimates say what is shown of them.
"""
