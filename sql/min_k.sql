-- Min-K% (Shi et al. 2024) and Min-K%++ (Zhang et al. 2024): how likely the target finds the least likely tokens of the text.
-- Parameters: $target     [run]  the run under attack
--             $k          [percentage; default 20]  per cent of the tokens, the least likely ones
--             $plus_plus  [true, false; default false]  of log p in standard deviations above its mean, not of log p itself
-- Grain: one row a sample of the audit pool that the target has token losses of.
with attacked as (
  select signals.sample_id, signals.member,
         case when $plus_plus then list_sort(token_z) else list_reverse_sort(token_losses) end as least_likely,
         len(token_losses)::bigint as tokens,
         greatest(1, floor(len(token_losses) * $k::double / 100))::bigint as chosen
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0 and token_losses is not null
)
select sample_id, member,
       list_avg(least_likely[:chosen]) * case when $plus_plus then 1 else -1 end + 0.0 as score,
       tokens,
       chosen
from attacked
order by sample_id
