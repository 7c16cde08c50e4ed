"""User-facing parts: queries and their answers, commands, figures, the report, the service, exports and surveys.

A run folder holds `simulations/` and `calibration_simulations/` (stores), `fit/`, `calibration.json` with
`reference.safetensors`, and `answers/NAME/` for each observation (`answer.json`, `draws.h5`, `predictive.h5`,
`paths.h5`). It also holds `refined/NAME/` (the same files for data near one observation, and its `rounds`),
`provenance.json`, `report.html`, `log.txt` and `events.jsonl`.

`question` holds the steps of a question, `answer` holds `query`, and `asking` chooses which posterior of a run answers.
The service makes no decisions of its own: its verdicts and findings are those of `query`. One kind of service process
speaks HTTP. The other processes answer questions, and may die. The seed of a survey row depends on the row's position
alone, and network passes begin at fixed positions. So block sizes, killed processes and the number of processes do not
change a bit of the answers. No figure and no export tests which kind a parameter is: the estimates say what is shown of
it.
"""
