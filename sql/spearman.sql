-- Spearman's rank correlation of two stored scores; ties share their mean rank.
-- Parameters: $first, $second  [text]  the analyses whose scores they are
--             $first_variant, $second_variant  [text; default '']  their variants
--             $target  [run, 'all']  the run they are about, or 'all' for scores that are about no run
--             $among   ['all', 'members', 'non-members'; default 'all']  which samples, by membership in the target
-- Grain: one row: n samples with both scores, rho (NULL where a score does not vary), and its standard error, from what
-- each pair adds to rho by its own place and by moving those above it (the influence function).
with sides as (
  select sample_id, member, score, analysis = $first and variant = $first_variant as is_first,
         analysis = $second and variant = $second_variant as is_second
  from scores
  where target = $target and score is not null
),
pairs as (
  select one.score as x, other.score as y
  from sides as one
  join sides as other on other.sample_id = one.sample_id
  where one.is_first and other.is_second
    and ($among = 'all' or coalesce(one.member, other.member) = ($among = 'members'))
),
ranks as (
  select rank() over (order by x) + (count(*) over (partition by x) - 1) / 2.0 as rank_x,
         rank() over (order by y) + (count(*) over (partition by y) - 1) / 2.0 as rank_y,
         (count(*) over () + 1) / 2.0 as middle
  from pairs
),
places as (
  select cast(rank_x - middle as double) as u, cast(rank_y - middle as double) as v
  from ranks
),
-- What a place adds up to over the pairs that lie above this one, those tied with it half.
above as (
  select u, v,
         sum(v) over (order by u desc) - sum(v) over (partition by u) / 2 as v_above_u,
         sum(u) over (order by v desc) - sum(u) over (partition by v) / 2 as u_above_v,
         sum(u) over (order by u desc) - sum(u) over (partition by u) / 2 as u_above_u,
         sum(v) over (order by v desc) - sum(v) over (partition by v) / 2 as v_above_v
  from places
),
moments as (
  select count(*) as n, avg(u * u) as uu, avg(v * v) as vv, avg(u * v) as uv,
         case when avg(u * u) > 0 and avg(v * v) > 0 then avg(u * v) / sqrt(avg(u * u) * avg(v * v)) end as rho
  from places
),
influences as (
  select (u * v + v_above_u + u_above_v - 3 * uv) / sqrt(uu * vv)
         - rho / 2 * ((u * u + 2 * u_above_u) / uu + (v * v + 2 * v_above_v) / vv - 6) as influence
  from above
  cross join moments
  where rho is not null
),
errors as (
  select sqrt(sum(influence * influence)) as length
  from influences
)
select n, case when rho is not null then greatest(-1, least(1, rho)) end as rho,
       case when rho is not null then length / n end as error
from moments
cross join errors
