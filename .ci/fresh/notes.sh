# A person with a folder of notes and a table of questions: a dataset, a policy on it, a trained one.
set -euo pipefail

mkdir -p notes
i=0
: > rows
while IFS='|' read -r city country capital; do
    i=$((i + 1))
    printf '# %s\n\n%s is a place in the country of %s.\n' "$city" "$city" "$country" > "notes/place$i.md"
    printf '# %s\n\nThe capital of %s is %s.\n' "$country" "$country" "$capital" > "notes/country$i.md"
    echo "Name the capital of the country where $city is located.,$capital,place$i.md|country$i.md" >> rows
done <<'END'
Bergen|Norway|Oslo
Turku|Finland|Helsinki
Porto|Portugal|Lisbon
Lyon|France|Paris
Krakow|Poland|Warsaw
Graz|Austria|Vienna
Ghent|Belgium|Brussels
Malmo|Sweden|Stockholm
Aarhus|Denmark|Copenhagen
Cork|Ireland|Dublin
Osaka|Japan|Tokyo
Cusco|Peru|Lima
END
{ echo "question,answers,documents"; cat rows; } > q.csv

calibadv data prepare my --questions q.csv --corpus notes/ --shares 0.5 0.25 0.25
calibadv data audit my --split test
printf 's Bergen country\nq\n' | calibadv play --env.dataset my --env.split train
calibadv eval atlas-tiny --env.dataset my --env.split test --env.prompt question
calibadv train --env.dataset my --output-dir runs/my --optim.num-updates 2 --rollout.num-questions 4 \
    --rollout.group-size 4 --evaluation.every 2 --evaluation.episodes 3
calibadv eval runs/my --env.dataset my --env.split test --env.prompt question
