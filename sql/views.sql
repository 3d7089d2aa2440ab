-- The lake's views over Parquet files that manifests list. Each variable holds a list of files, or of the (file, run)
-- whose rows count; a part of a union whose list is empty is left out, and a view without any part is replaced by an
-- empty table with the same columns (see store/query/views.py).

-- samples: one row an (experiment, sample), with the user's own columns.
create view samples as
select experiment, sample_id, label, pool, split, "group", "key",
       * exclude (experiment, sample_id, label, pool, split, "group", "key")
from read_parquet(getvariable('samples_files'), union_by_name = true,
                  hive_partitioning = true, hive_types = {'experiment': varchar});

-- signals: one row a (run, sample, query): what the finished model says. The columns are said, not read off the first file:
-- only files of language models have those of tokens.
create view signals as
select experiment, run, sample_id, query, member, label, loss, phi, correct, logits, features,
       token_losses, token_z, lower_loss
from read_parquet(getvariable('signals_files'),
                  schema = map_from_entries([
                      {k: each[1], v: {name: each[1], type: each[2], default_value: null}} for each in [
                          ['sample_id', 'integer'], ['query', 'smallint'], ['member', 'boolean'], ['label', 'integer'],
                          ['loss', 'float'], ['phi', 'float'], ['correct', 'boolean'], ['logits', 'float[]'], ['features', 'float[]'],
                          ['token_losses', 'float[]'], ['token_z', 'float[]'], ['lower_loss', 'float']]]),
                  hive_partitioning = true, hive_types = {'experiment': varchar, 'run': varchar})
union all
select experiment, run, sample_id, query, member, label, loss, phi, correct, logits, features,
       token_losses, token_z, lower_loss
from read_parquet(getvariable('signals_shared_files'),
                  schema = map_from_entries([
                      {k: each[1], v: {name: each[1], type: each[2], default_value: null}} for each in [
                          ['run', 'varchar'], ['sample_id', 'integer'], ['query', 'smallint'], ['member', 'boolean'], ['label', 'integer'],
                          ['loss', 'float'], ['phi', 'float'], ['correct', 'boolean'], ['logits', 'float[]'], ['features', 'float[]'],
                          ['token_losses', 'float[]'], ['token_z', 'float[]'], ['lower_loss', 'float']]]),
                  hive_partitioning = true, hive_types = {'experiment': varchar})
union all
select experiment, run, sample_id, query, member, label, loss, phi, correct, logits, features,
       token_losses, token_z, lower_loss
from read_parquet(getvariable('signals_part_files'), filename = true,
                  schema = map_from_entries([
                      {k: each[1], v: {name: each[1], type: each[2], default_value: null}} for each in [
                          ['run', 'varchar'], ['sample_id', 'integer'], ['query', 'smallint'], ['member', 'boolean'], ['label', 'integer'],
                          ['loss', 'float'], ['phi', 'float'], ['correct', 'boolean'], ['logits', 'float[]'], ['features', 'float[]'],
                          ['token_losses', 'float[]'], ['token_z', 'float[]'], ['lower_loss', 'float']]]),
                  hive_partitioning = true, hive_types = {'experiment': varchar}) as shared
semi join (select unnest(getvariable('signals_part_rows'), recursive := true)) as counted
  on counted.part_file = shared.filename and counted.part_run = shared.run;

-- traces: one row a (run, sample, source); element e + 1 of a list is epoch e, epoch 0 is before training.
create view traces as
select experiment, run, sample_id, source, member, loss, grad_norm, margin
from read_parquet(getvariable('traces_files'),
                  hive_partitioning = true, hive_types = {'experiment': varchar, 'run': varchar})
union all
select experiment, run, sample_id, source, member, loss, grad_norm, margin
from read_parquet(getvariable('traces_shared_files'),
                  hive_partitioning = true, hive_types = {'experiment': varchar})
union all
select experiment, run, sample_id, source, member, loss, grad_norm, margin
from read_parquet(getvariable('traces_part_files'), filename = true,
                  hive_partitioning = true, hive_types = {'experiment': varchar}) as shared
semi join (select unnest(getvariable('traces_part_rows'), recursive := true)) as counted
  on counted.part_file = shared.filename and counted.part_run = shared.run;

-- trace_points: the same values, one row a (run, sample, source, epoch).
create view trace_points as
select experiment, run, sample_id, source, member,
       unnest(range(greatest(coalesce(len(loss), 0), coalesce(len(grad_norm), 0), coalesce(len(margin), 0)))) as epoch,
       loss[epoch + 1] as loss, grad_norm[epoch + 1] as grad_norm, margin[epoch + 1] as margin
from traces;

-- scores: one row an (analysis, variant, target, sample), with the analyses' own columns.
create view scores as
select experiment, analysis, target, variant, sample_id, member, score,
       * exclude (experiment, analysis, target, variant, sample_id, member, score)
from read_parquet(getvariable('scores_files'), union_by_name = true,
                  hive_partitioning = true,
                  hive_types = {'experiment': varchar, 'analysis': varchar, 'target': varchar});

-- risk: one row an (experiment, target, analysis, sample): the scores that the default options give of the experiment's
-- target, with what the samples are (a class that has no name is called by its number). Not of its duals, which name it as their parent, nor of other runs; where there is no
-- target, the scores that are about no run.
create view risk as
select scores.experiment, scores.target, scores.analysis, scores.sample_id,
       samples."key", samples.label, coalesce(classes.label_name, cast(samples.label as varchar)) as label_name,
       samples."group", scores.member, scores.score
from scores
join samples on samples.experiment = scores.experiment and samples.sample_id = scores.sample_id
left join classes on classes.experiment = samples.experiment and classes.label = samples.label
left join (select experiment, run from runs where role = 'target' and parent is null) as targets
  on targets.experiment = scores.experiment and targets.run = scores.target
left join (select distinct experiment from runs where role = 'target') as attacked
  on attacked.experiment = scores.experiment
where scores.variant = '' and scores.score is not null
  and (targets.run is not null or scores.target = 'all' and attacked.experiment is null);
