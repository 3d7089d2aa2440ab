-- Runs whose token losses are of other tokens than the target's, by the count of a text's: another tokenizer, or other texts.
-- Parameters: $target  [run]  the run under attack
-- Grain: one row a shadow or reference run with token losses of a sample, as it is, that are not as many as the target's.
with attacked as (
  select sample_id, array_length(token_losses) as tokens
  from signals
  where run = $target and query = 0 and token_losses is not null
)
select signals.run,
       count(*) as texts,
       min(signals.sample_id) as sample_id,
       arg_min(array_length(signals.token_losses), signals.sample_id) as tokens,
       arg_min(attacked.tokens, signals.sample_id) as own
from signals
join attacked on attacked.sample_id = signals.sample_id
where signals.query = 0 and signals.run <> $target
  and signals.run in (select run from runs where role in ('shadow', 'reference'))
  and signals.token_losses is not null and array_length(signals.token_losses) <> attacked.tokens
group by signals.run
order by signals.run
